"""What the server says of itself: its log, its versions, its attestation. It watches and never decides."""
