"""The HTTP routes, the middleware around them, and how errors look over HTTP."""
