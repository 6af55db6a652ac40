"""The computations of analytic protocols on columns of tables, and the audit of the numbers that they release."""
