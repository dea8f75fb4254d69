"""The same work on many processes and machines, by engines that exist: Ray and torch.distributed."""
