"""Documented import paths that stay the same when the house behind them is rearranged."""
