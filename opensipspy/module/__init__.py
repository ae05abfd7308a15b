"""What a module is made of."""
