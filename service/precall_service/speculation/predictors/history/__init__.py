"""P2, history: proposes calls like those that the tenant's conversations have made before."""
