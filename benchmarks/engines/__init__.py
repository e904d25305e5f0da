"""What the benchmarks of the ODE engine share: problems, the libraries that solve them, timing, report."""
