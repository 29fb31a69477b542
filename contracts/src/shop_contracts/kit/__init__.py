"""The contract-test kit: proves a subscriber or a publisher right without the shop."""
