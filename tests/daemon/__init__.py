"""When bar closes are due, and what is done about them."""
