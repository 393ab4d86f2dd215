"""What a finished run becomes in an application: a server (`serve`), or a folder that stock tools load (`export`)."""
