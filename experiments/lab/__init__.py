"""The advantage lab's parts; `experiments/advantage_lab.py` puts them together.

policy: a scripted player -> play: its episodes -> truth: Q, V and A of a step
by Monte Carlo -> cases: one game's step and groups -> cells: many games, kept
in files -> estimates -> statistics -> tables, plots, report.
"""
