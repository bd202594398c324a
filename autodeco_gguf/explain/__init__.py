"""What temperature and top-p are worth at each token of right answers, and why the heads do or don't get it."""
