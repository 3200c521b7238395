"""Complete jobs on the simulated SO-101: play scenarios, measure, draw pictures, report."""
