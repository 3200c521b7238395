"""What `hybridpolicy bench` measures: policies side by side in one run, trained or not."""
