module sigsum.org/sigsum-go
