"""A payment provider without money, which fails as it is told to. No part of a shop that sells."""
