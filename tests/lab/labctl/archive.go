package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
)

// checkArchive says why a file cannot be an archive of images, docker's or OCI's. It reads to the end: a file that was cut off
// would be kept, and no node would start with it.
func checkArchive(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	plain := bufio.NewReader(in)
	magic, _ := plain.Peek(4)
	var content io.Reader = plain
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		if content, err = gzip.NewReader(plain); err != nil {
			return errors.New("this is no archive of images: " + err.Error())
		}
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// zstd, which containerd reads and the standard library does not.
		return nil
	}
	found := false
	for archive := tar.NewReader(content); ; {
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF) && found:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("this is no archive of images: it has neither manifest.json (docker save, buildah push docker-archive:) nor index.json (OCI)")
		case err != nil:
			return errors.New("this is no archive of images: " + err.Error())
		}
		name := path.Clean(header.Name)
		found = found || name == "manifest.json" || name == "index.json"
	}
}
