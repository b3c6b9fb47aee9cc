package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"raftmq.lab/labctl/provisioner"
)

// nodeVolumes is a node's agent for volumes.
func nodeVolumes(args []string) error {
	if len(args) != 3 {
		return errors.New("node-volumes NODE DIR KUBECONFIG")
	}
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return provisioner.Run(ctx, args[0], args[2], disks{args[1]})
}

func mountVolumes(ctx context.Context, dir string) error {
	images, err := filepath.Glob(filepath.Join(dir, "*.img"))
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := (disks{dir}).mount(ctx, strings.TrimSuffix(filepath.Base(image), ".img")); err != nil {
			return err
		}
	}
	return nil
}

// disks are a node's volumes: for each an XFS image NAME.img, mounted at NAME. A pod gets the
// directory `data` in it, which is not there while the image is not mounted.
type disks struct{ dir string }

func (d disks) image(name string) string { return filepath.Join(d.dir, name+".img") }
func (d disks) point(name string) string { return filepath.Join(d.dir, name) }
func (d disks) Path(name string) string  { return filepath.Join(d.dir, name, "data") }

// Create makes the volume, unless it is there, and mounts it.
func (d disks) Create(ctx context.Context, name string, size int64) error {
	if _, err := os.Stat(d.image(name)); errors.Is(err, fs.ErrNotExist) {
		if err := format(ctx, d.image(name), size); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := d.mount(ctx, name); err != nil {
		return err
	}
	if err := os.Mkdir(d.Path(name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// format makes an empty image. It gets its name when it is whole.
func format(ctx context.Context, image string, size int64) error {
	file, err := os.Create(image + ".new")
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		return err
	}
	// mkfs.xfs refuses less than 300 MB unless it believes that the file system's own tests call it.
	// Small volumes are what tests of a full disk want.
	if err := command(ctx, "env", "TEST_DIR=1", "TEST_DEV=1", "QA_CHECK_FS=1", "mkfs.xfs", "-q", "-K", image+".new"); err != nil {
		return err
	}
	return os.Rename(image+".new", image)
}

func (d disks) mount(ctx context.Context, name string) error {
	point := d.point(name)
	if d.mounted(point) {
		return nil
	}
	if err := os.Mkdir(point, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return command(ctx, "mount", "-t", "xfs", "-o", "loop", d.image(name), point)
}

func (d disks) mounted(point string) bool {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	return strings.Contains(string(mounts), " "+point+" ")
}

// Grow makes the volume larger while it is in use.
func (d disks) Grow(ctx context.Context, name string, size int64) error {
	info, err := os.Stat(d.image(name))
	if err != nil {
		return err
	}
	if info.Size() < size {
		if err := os.Truncate(d.image(name), size); err != nil {
			return err
		}
	}
	loops, err := output(ctx, nil, "losetup", "-j", d.image(name), "-n", "-O", "NAME")
	if err != nil {
		return err
	}
	loop := strings.TrimSpace(loops)
	if loop == "" || strings.Contains(loop, "\n") {
		return fmt.Errorf("%s: one loop device expected, not %q", d.image(name), loops)
	}
	if err := command(ctx, "losetup", "-c", loop); err != nil {
		return err
	}
	return command(ctx, "xfs_growfs", d.point(name))
}

// Delete removes the volume and its data.
func (d disks) Delete(ctx context.Context, name string) error {
	if d.mounted(d.point(name)) {
		if err := command(ctx, "umount", d.point(name)); err != nil {
			return err
		}
	}
	if err := os.Remove(d.image(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(d.point(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
