"""Pure functions on arrays: overlap, mean shift, components, assignment."""
