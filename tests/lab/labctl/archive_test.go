package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func archiveOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 1000}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOnlyArchivesOfImagesAreKept(t *testing.T) {
	docker, oci := archiveOf(t, "layer.tar", "manifest.json"), archiveOf(t, "./index.json", "blobs/x")
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(docker); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content []byte
		reason  string
	}{
		"docker":          {docker, ""},
		"oci":             {oci, ""},
		"gzip":            {packed.Bytes(), ""},
		"another archive": {archiveOf(t, "README.md"), "neither manifest.json"},
		"text":            {[]byte(strings.Repeat("not an archive\n", 100)), "no archive"},
		"empty":           {nil, "no archive"},
		"cut off":         {docker[:1800], "no archive"},
		"half a gzip":     {packed.Bytes()[:packed.Len()/2], "no archive"},
	} {
		state := t.TempDir()
		for _, dir := range []string{"tmp", "images"} {
			if err := os.Mkdir(filepath.Join(state, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(file, c.content, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := keepImage(state, file)
		kept, _ := filepath.Glob(filepath.Join(state, "*", "*"))
		if c.reason == "" {
			if err != nil || len(kept) != 1 {
				t.Errorf("%s: %v, kept %v", name, err, kept)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.reason) || !strings.Contains(err.Error(), file) || len(kept) != 0 {
			t.Errorf("%s: %v, kept %v", name, err, kept)
		}
	}
}
