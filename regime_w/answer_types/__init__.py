"""What an answer is: a number, one of several choices, mathematics, or a text."""
