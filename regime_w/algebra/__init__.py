"""Mathematics in answers: cleaned LaTeX, equations, inequalities, and the process that runs math-verify."""
