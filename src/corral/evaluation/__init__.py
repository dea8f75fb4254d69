"""How good each stage and the whole funnel are, and how sure we can be."""
