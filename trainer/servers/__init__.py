"""Several inference servers as one: who is asked, who has left, and what each has been given."""
