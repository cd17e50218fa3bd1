"""The paper's figures as data, the runs that they need, and what these say of the paper's claims."""
