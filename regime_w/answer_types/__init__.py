"""What an answer is: a number, one of several choices, or a text."""
