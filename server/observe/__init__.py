"""What the server reports about itself: its log, its versions, its attestation. Nothing
here decides anything."""
