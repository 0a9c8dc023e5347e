"""Several machines: the hostfile, the check before a run, and the run itself over ssh and pdsh."""
