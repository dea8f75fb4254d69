"""The form that asks again with something changed: what the panels must know of it."""

# Its id in assets/studio.html, and what its buttons say.
FORM, BUTTON = "what-if", "Show the change"
