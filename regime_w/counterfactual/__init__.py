"""Counterfactual questions: one number changed, and the groups of both questions scored together."""
