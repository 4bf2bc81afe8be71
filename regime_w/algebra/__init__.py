"""Mathematics in answers: one line of LaTeX as it is compared, equations, inequalities, and the process with math-verify."""
