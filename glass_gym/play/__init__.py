"""Human play: in a window, in a browser, in a notebook."""
