"""JSON that any two parsers read alike, told apart from JSON that they would not."""
