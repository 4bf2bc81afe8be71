"""What an answer is: a number, one of several choices, a text, or mathematics."""
