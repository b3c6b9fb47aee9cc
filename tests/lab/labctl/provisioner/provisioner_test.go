package provisioner

import (
	"context"
	"errors"
	"slices"
	"testing"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

// memory stands for disks and writes down what was asked of them.
type memory struct {
	calls []string
	fail  error
}

func (m *memory) Path(name string) string { return "/disks/" + name }
func (m *memory) note(what, name string) error {
	m.calls = append(m.calls, what+" "+name)
	return m.fail
}
func (m *memory) Create(_ context.Context, name string, size int64) error {
	return m.note("create "+resource.NewQuantity(size, resource.BinarySI).String(), name)
}
func (m *memory) Grow(_ context.Context, name string, size int64) error {
	return m.note("grow "+resource.NewQuantity(size, resource.BinarySI).String(), name)
}
func (m *memory) Delete(_ context.Context, name string) error { return m.note("delete", name) }

func quantity(size string) core.ResourceList {
	return core.ResourceList{core.ResourceStorage: resource.MustParse(size)}
}

func claim(node, size string) *core.PersistentVolumeClaim {
	class := "local-xfs"
	return &core.PersistentVolumeClaim{
		ObjectMeta: meta.ObjectMeta{Namespace: "ns", Name: "c", UID: "1", Annotations: map[string]string{selectedNode: node}},
		Spec:       core.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: core.VolumeResourceRequirements{Requests: quantity(size)}},
	}
}

func volume(node, size string, phase core.PersistentVolumePhase) *core.PersistentVolume {
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: "pvc-1", UID: "v", Annotations: map[string]string{provisionedBy: Name, selectedNode: node}},
		Spec: core.PersistentVolumeSpec{
			Capacity: quantity(size), PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			ClaimRef: &core.ObjectReference{Namespace: "ns", Name: "c", UID: "1"},
		},
		Status: core.PersistentVolumeStatus{Phase: phase},
	}
}

func bound(c *core.PersistentVolumeClaim, has string) *core.PersistentVolumeClaim {
	c.Spec.VolumeName = "pvc-1"
	c.Status.Capacity = quantity(has)
	return c
}

func block(c *core.PersistentVolumeClaim) *core.PersistentVolumeClaim {
	mode := core.PersistentVolumeBlock
	c.Spec.VolumeMode = &mode
	return c
}

func retained(v *core.PersistentVolume) *core.PersistentVolume {
	v.Spec.PersistentVolumeReclaimPolicy = core.PersistentVolumeReclaimRetain
	return v
}

func TestReconcile(t *testing.T) {
	for _, c := range []struct {
		name    string
		objects []runtime.Object
		disks   error
		calls   []string
		volume  string // its size afterwards; empty: there is none
		claimed string // the claim's status afterwards
		fails   bool
	}{
		{name: "a claim for this node gets a volume", objects: []runtime.Object{claim("here", "1Gi")}, calls: []string{"create 1Gi pvc-1"}, volume: "1Gi"},
		{name: "one for another node does not", objects: []runtime.Object{claim("there", "1Gi")}},
		{name: "one without a node waits", objects: []runtime.Object{claim("", "1Gi")}},
		{name: "a tiny one gets what XFS needs", objects: []runtime.Object{claim("here", "1Mi")}, calls: []string{"create 16Mi pvc-1"}, volume: "16Mi"},
		{name: "made already", objects: []runtime.Object{claim("here", "1Gi"), volume("here", "1Gi", core.VolumeAvailable)}, volume: "1Gi"},
		{name: "no block volumes", objects: []runtime.Object{block(claim("here", "1Gi"))}, fails: true},
		{name: "a full disk makes no volume", objects: []runtime.Object{claim("here", "1Gi")}, disks: errors.New("no space"), calls: []string{"create 1Gi pvc-1"}, fails: true},
		{name: "nothing to do", objects: []runtime.Object{bound(claim("here", "1Gi"), "1Gi"), volume("here", "1Gi", core.VolumeBound)}, volume: "1Gi", claimed: "1Gi"},
		{name: "grows", objects: []runtime.Object{bound(claim("here", "2Gi"), "1Gi"), volume("here", "1Gi", core.VolumeBound)}, calls: []string{"grow 2Gi pvc-1"}, volume: "2Gi", claimed: "2Gi"},
		{name: "grown, but the claim does not know", objects: []runtime.Object{bound(claim("here", "2Gi"), "1Gi"), volume("here", "2Gi", core.VolumeBound)}, volume: "2Gi", claimed: "2Gi"},
		{name: "cannot grow", objects: []runtime.Object{bound(claim("here", "2Gi"), "1Gi"), volume("here", "1Gi", core.VolumeBound)}, disks: errors.New("no space"), calls: []string{"grow 2Gi pvc-1"}, volume: "1Gi", claimed: "1Gi", fails: true},
		{name: "released: goes", objects: []runtime.Object{volume("here", "1Gi", core.VolumeReleased)}, calls: []string{"delete pvc-1"}},
		{name: "released, in use by the kernel: stays", objects: []runtime.Object{volume("here", "1Gi", core.VolumeReleased)}, disks: errors.New("busy"), calls: []string{"delete pvc-1"}, volume: "1Gi", fails: true},
		{name: "released on another node: not ours", objects: []runtime.Object{volume("there", "1Gi", core.VolumeReleased)}, volume: "1Gi"},
		{name: "retained: stays", objects: []runtime.Object{retained(volume("here", "1Gi", core.VolumeReleased))}, volume: "1Gi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			class := &storage.StorageClass{ObjectMeta: meta.ObjectMeta{Name: "local-xfs"}, Provisioner: Name}
			client := fake.NewClientset(append(c.objects, class)...)
			factory := informers.NewSharedInformerFactory(client, 0)
			disks := &memory{fail: c.disks}
			a := &agent{
				node: "here", disks: disks, client: client, events: record.NewFakeRecorder(10),
				claims:  factory.Core().V1().PersistentVolumeClaims().Lister(),
				volumes: factory.Core().V1().PersistentVolumes().Lister(),
				classes: factory.Storage().V1().StorageClasses().Lister(),
			}
			factory.Start(ctx.Done())
			factory.WaitForCacheSync(ctx.Done())
			if err := a.reconcile(ctx); (err != nil) != c.fails {
				t.Errorf("error: %v", err)
			}
			if !slices.Equal(disks.calls, c.calls) {
				t.Errorf("asked of the disks: %q, expected %q", disks.calls, c.calls)
			}
			size := ""
			if v, err := client.CoreV1().PersistentVolumes().Get(ctx, "pvc-1", meta.GetOptions{}); err == nil {
				capacity := v.Spec.Capacity[core.ResourceStorage]
				size = capacity.String()
			}
			if size != c.volume {
				t.Errorf("volume of %q, expected %q", size, c.volume)
			}
			claimed := ""
			if p, err := client.CoreV1().PersistentVolumeClaims("ns").Get(ctx, "c", meta.GetOptions{}); err == nil && p.Status.Capacity != nil {
				capacity := p.Status.Capacity[core.ResourceStorage]
				claimed = capacity.String()
			}
			if claimed != c.claimed {
				t.Errorf("the claim says %q, expected %q", claimed, c.claimed)
			}
		})
	}
}
