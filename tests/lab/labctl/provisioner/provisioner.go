// Package provisioner makes, grows and removes the volumes of one node.
//
// There is one on each node, which sees to the claims that the scheduler gave to that node
// (WaitForFirstConsumer) and to the `local` volumes made from them. It looks at the whole state
// after each change: what it does follows from what is there, not from what it did before.
package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	core "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
)

// Name is what a StorageClass calls this provisioner.
const Name = "lab.raftmq/xfs"

const (
	selectedNode  = "volume.kubernetes.io/selected-node"
	provisionedBy = "pv.kubernetes.io/provisioned-by"
	// XFS needs some room for itself.
	smallest = 16 << 20
)

// Disks are a node's volumes. Every method may be called again after it failed, or succeeded.
type Disks interface {
	Path(name string) string
	Create(ctx context.Context, name string, size int64) error
	Grow(ctx context.Context, name string, size int64) error
	Delete(ctx context.Context, name string) error
}

type agent struct {
	node    string
	disks   Disks
	client  kubernetes.Interface
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	events  record.EventRecorder
}

// Run sees to the node's volumes until ctx ends.
func Run(ctx context.Context, node, kubeconfig string, disks Disks) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events("")})
	factory := informers.NewSharedInformerFactory(client, 0)
	a := &agent{
		node: node, disks: disks, client: client,
		claims:  factory.Core().V1().PersistentVolumeClaims().Lister(),
		volumes: factory.Core().V1().PersistentVolumes().Lister(),
		classes: factory.Storage().V1().StorageClasses().Lister(),
		events:  broadcaster.NewRecorder(scheme.Scheme, core.EventSource{Component: Name, Host: node}),
	}
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().PersistentVolumeClaims().Informer(),
		factory.Core().V1().PersistentVolumes().Informer(),
		factory.Storage().V1().StorageClasses().Informer(),
	} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { poke() },
			UpdateFunc: func(any, any) { poke() },
			DeleteFunc: func(any) { poke() },
		}); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		if err := a.reconcile(ctx); err != nil {
			log.Printf("trying again in a second: %v", err)
			time.AfterFunc(time.Second, poke)
		}
	}
}

func (a *agent) reconcile(ctx context.Context) error {
	claims, err := a.claims.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, claim := range claims {
		if a.wants(claim) {
			errs = append(errs, a.report(claim, "ProvisioningFailed", a.provision(ctx, claim)))
		}
	}
	volumes, err := a.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, volume := range volumes {
		if volume.Annotations[provisionedBy] != Name || volume.Annotations[selectedNode] != a.node {
			continue
		}
		switch {
		case volume.Status.Phase == core.VolumeReleased && volume.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimDelete:
			errs = append(errs, a.remove(ctx, volume))
		case volume.Status.Phase == core.VolumeBound:
			claim, err := a.claims.PersistentVolumeClaims(volume.Spec.ClaimRef.Namespace).Get(volume.Spec.ClaimRef.Name)
			if err == nil && claim.UID == volume.Spec.ClaimRef.UID {
				errs = append(errs, a.report(claim, "VolumeResizeFailed", a.grow(ctx, claim, volume)))
			}
		}
	}
	return errors.Join(errs...)
}

// wants tells whether the claim waits for a volume from this node.
func (a *agent) wants(claim *core.PersistentVolumeClaim) bool {
	if claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Annotations[selectedNode] != a.node {
		return false
	}
	class := a.class(claim)
	return class != nil && class.Provisioner == Name
}

func (a *agent) class(claim *core.PersistentVolumeClaim) *storage.StorageClass {
	if claim.Spec.StorageClassName == nil {
		return nil
	}
	class, err := a.classes.Get(*claim.Spec.StorageClassName)
	if err != nil {
		return nil
	}
	return class
}

func (a *agent) provision(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	name := "pvc-" + string(claim.UID)
	if _, err := a.volumes.Get(name); err == nil {
		return nil // made already; the claim gets bound to it
	}
	if claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == core.PersistentVolumeBlock {
		return errors.New("no block volumes here, only file systems")
	}
	size := claim.Spec.Resources.Requests[core.ResourceStorage]
	if size.Value() < smallest {
		size = *resource.NewQuantity(smallest, resource.BinarySI)
	}
	if err := a.disks.Create(ctx, name, size.Value()); err != nil {
		return err
	}
	class := a.class(claim)
	volume := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: Name, selectedNode: a.node}},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      core.ResourceList{core.ResourceStorage: size},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			StorageClassName:              class.Name,
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			PersistentVolumeSource: core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: a.disks.Path(name)}},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{{
				MatchExpressions: []core.NodeSelectorRequirement{{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{a.node}}},
			}}}},
		},
	}
	if class.ReclaimPolicy != nil {
		volume.Spec.PersistentVolumeReclaimPolicy = *class.ReclaimPolicy
	}
	_, err := a.client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		log.Printf("%s/%s: made %s of %s", claim.Namespace, claim.Name, name, size.String())
	}
	return err
}

// grow follows the claim's wish for more. The claim's status comes last: until it says the new size
// all of this is done again.
func (a *agent) grow(ctx context.Context, claim *core.PersistentVolumeClaim, volume *core.PersistentVolume) error {
	wanted := claim.Spec.Resources.Requests[core.ResourceStorage]
	has := volume.Spec.Capacity[core.ResourceStorage]
	if has.Cmp(wanted) < 0 {
		if err := a.disks.Grow(ctx, volume.Name, wanted.Value()); err != nil {
			return err
		}
		if err := patch(func(data []byte) error {
			_, err := a.client.CoreV1().PersistentVolumes().Patch(ctx, volume.Name, types.MergePatchType, data, meta.PatchOptions{})
			return err
		}, map[string]any{"spec": map[string]any{"capacity": core.ResourceList{core.ResourceStorage: wanted}}}); err != nil {
			return err
		}
		log.Printf("%s/%s: %s grown from %s to %s", claim.Namespace, claim.Name, volume.Name, has.String(), wanted.String())
		has = wanted
	}
	// A claim below the smallest size has what the volume has from its binding on.
	known, bound := claim.Status.Capacity[core.ResourceStorage]
	if !bound || known.Cmp(wanted) >= 0 {
		return nil
	}
	return patch(func(data []byte) error {
		_, err := a.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, data, meta.PatchOptions{}, "status")
		return err
	}, map[string]any{"status": map[string]any{"capacity": core.ResourceList{core.ResourceStorage: has}, "conditions": []any{}}})
}

func patch(send func([]byte) error, change any) error {
	data, err := json.Marshal(change)
	if err != nil {
		return err
	}
	return send(data)
}

func (a *agent) remove(ctx context.Context, volume *core.PersistentVolume) error {
	if err := a.disks.Delete(ctx, volume.Name); err != nil {
		return fmt.Errorf("%s: %w", volume.Name, err)
	}
	err := a.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{Preconditions: &meta.Preconditions{UID: &volume.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		log.Printf("%s removed", volume.Name)
	}
	return err
}

// report shows a failure where a user looks for it: at the claim.
func (a *agent) report(claim *core.PersistentVolumeClaim, reason string, err error) error {
	if err == nil {
		return nil
	}
	a.events.Event(claim, core.EventTypeWarning, reason, err.Error())
	return fmt.Errorf("%s/%s: %w", claim.Namespace, claim.Name, err)
}
