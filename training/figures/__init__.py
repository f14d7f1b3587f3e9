"""Pictures of what was measured: contact sheets and curves, as PNG."""
