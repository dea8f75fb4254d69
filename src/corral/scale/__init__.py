"""The same work on many processes and machines, by engines that exist: torch.distributed, and Ray.

A training on several processes computes what one process computes:

1. All workers run the same program in step (SPMD): same seeds, same global batches, same decisions; the lookups of the
   tables and a few sums are the only places where they wait for each other. Every collective goes through ``Workers``.
2. A worker takes a contiguous share of every global batch (``SharedBatches``). Losses are its parts of the whole
   batch's means (``data.whole_batch``): their sum is the loss, the sum of their gradients is the gradient.
3. Random numbers are drawn for the whole batch by every worker, from generators in the same state, and each keeps its
   share's rows (``GlobalDraws``): negatives, dropout and positions depend on seed, step and place in the batch alone.
4. Id tables are cut by row into blocks (``ShardedEmbedding``): a lookup is an all-to-all of distinct rows and vectors,
   its gradient goes the same way back; the rows' optimizer state lives with them. Other parameters are copies, their
   gradients all-reduced in one flat buffer (``ShardedAdam``), not DDP: its buckets know no row-wise sparse tables.
5. The full softmax is vocabulary-parallel (``ShardedSoftmax``): all queries, each worker's items; chunk x M logits a
   worker (its chunks are W times as long), never the item vectors of another one.
6. MIDX codebooks are built where the item vectors are, by k-means over sums (``sharded_quantization``); codes, 8
   bytes an item, are then everybody's. A small catalogue is shown to all.
7. What is derived from the weights of all users or items, RAR's keys, codes and neighbours at a refresh, vectors and
   lists of an index, is made in shares, which are gathered (``data.whole_batch.by_shares``); what a step needs of other
   shares, sums and rows, has its gradient (``summed``, ``gathered``).
8. Validation and the end of a run gather whole tables (a served model fits on one machine); workers take turns at the
   batches of the funnel and hand each other what both stages said (``evaluation.turns``): the same numbers, exactly.
9. Checkpoints are torch.distributed.checkpoint over safetensors: any number of workers reads them. The two latest stay;
   a damaged one is passed over. A worker that dies ends the others; torch elastic starts all again from the last one.
10. World size is not in any result: to rounding (sums in another order) in training, exactly in evaluation. What would
   not be is refused by name (``cli``): it never runs with another meaning.
"""
