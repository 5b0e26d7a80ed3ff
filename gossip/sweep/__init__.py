"""Many short trainings of one experiment with other values: what to try, one trial, when to give it up, who is best."""
