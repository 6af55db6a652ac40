"""What analytic protocols compute with: columns, cells, quantiles, moments, and what was told of which rows."""
