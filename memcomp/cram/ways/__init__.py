"""Ways of writing a text into a frozen language model."""
