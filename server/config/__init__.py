"""models.yaml, environment and flags become one frozen `Settings`. Nothing here opens a model or a port."""
