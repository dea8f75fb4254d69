"""What every part owes its callers, as functions: corral's own parts are held to them, and yours can be."""
