"""What makes the encoder quick and changes nothing in what it computes; each part has a test that says so."""
