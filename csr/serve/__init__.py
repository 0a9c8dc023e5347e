"""`csr serve`: a page where a doctor sees what a diagnosis rests on and corrects it. Extra: `serve`."""
