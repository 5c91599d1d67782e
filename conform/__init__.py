"""The endpoint's rules as a client sees them, put to any server of this kind; it uses nothing of ours."""
