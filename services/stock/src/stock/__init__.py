"""Stock owns the volatile data of the shop: quantities, holds and prices."""
