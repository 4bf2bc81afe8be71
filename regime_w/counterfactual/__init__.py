"""Counterfactual questions: one number changed, and the groups of both questions scored together."""

from regime_w.counterfactual.reexecution import Counterfactual, reexecuted, with_suffix

__all__ = ["Counterfactual", "reexecuted", "with_suffix"]
