"""Makes a sealed bundle where there is a network, and installs it where there is none."""
