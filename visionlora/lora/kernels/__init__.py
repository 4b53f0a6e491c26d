"""Fast paths for linear and conv layers: ``layer(x, W + U V)`` with no more work and memory than the gradients of ``U`` and ``V`` need.

The frozen weight ``W`` gets no gradient, so nothing is computed or held for one. The parts of this package:

- ``geometry.py`` says what a kind of layer has to be able to do; ``linear.py``, ``pointwise.py``, ``conv.py`` and ``grouped.py`` do it.
- ``ways.py`` has the two ways forward and the two ways back that lead to the same result, and ``cost.py`` chooses between them.
- ``autograd.py`` has the functions that autograd calls; ``forward.py`` is what a layer calls.
- ``copies.py`` holds the frozen weight in the dtype that is computed in; ``recompute.py`` makes inputs again instead of holding them.

All are pure functions of the input, the frozen weight and the joined factors, so that several adapters, weighted sums and dropout need
nothing of their own. They are exact up to rounding: the reference is the effective weight that ``LoraLayer`` gives.
"""
