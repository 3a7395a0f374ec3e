"""What models are made of. Parts know no paper, no file and no loss."""
