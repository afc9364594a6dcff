"""Methods x seeds at equal budgets: runs, statistics, plots and the report."""
