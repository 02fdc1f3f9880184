package deploy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/yaml"
	admission "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/zyotra/auth/internal/testauthd"
)

var kubernetesDir = filepath.Join("..", "..", "..", "docs", "operations", "kubernetes")

// manifests are what is applied to a cluster, with the Secrets that a reader makes beside them.
type manifests struct {
	pods     map[string]corev1.PodTemplateSpec // by the name of what makes them
	configs  map[string]corev1.ConfigMap
	secrets  map[string]corev1.Secret
	services []corev1.Service
	budgets  []policyv1.PodDisruptionBudget
	scalers  []autoscalingv2.HorizontalPodAutoscaler
	networks []networkingv1.NetworkPolicy

	deployments map[string]appsv1.Deployment
}

// kubernetes reads what kustomize makes, strictly, as a cluster does.
func kubernetes(t *testing.T) *manifests {
	t.Helper()
	m := &manifests{
		pods: map[string]corev1.PodTemplateSpec{}, configs: map[string]corev1.ConfigMap{},
		secrets: map[string]corev1.Secret{}, deployments: map[string]appsv1.Deployment{},
	}
	for _, dir := range []string{"migrate", "."} {
		built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).
			Run(filesys.MakeFsOnDisk(), filepath.Join(kubernetesDir, dir))
		check(t, err)
		text, err := built.AsYaml()
		check(t, err)
		m.read(t, text)
	}
	example, err := os.ReadFile(filepath.Join(kubernetesDir, "secret.example.yaml"))
	check(t, err)
	m.read(t, example)
	return m
}

// read adds the objects of a file.
func (m *manifests) read(t *testing.T, text []byte) {
	t.Helper()
	for _, object := range objects(t, text) {
		switch o := object.(type) {
		case *appsv1.Deployment:
			m.pods[o.Name], m.deployments[o.Name] = o.Spec.Template, *o
		case *batchv1.Job:
			m.pods[o.Name] = o.Spec.Template
		case *corev1.ConfigMap:
			m.configs[o.Name] = *o
		case *corev1.Secret:
			m.secrets[o.Name] = *o
		case *corev1.Service:
			m.services = append(m.services, *o)
		case *policyv1.PodDisruptionBudget:
			m.budgets = append(m.budgets, *o)
		case *autoscalingv2.HorizontalPodAutoscaler:
			m.scalers = append(m.scalers, *o)
		case *networkingv1.NetworkPolicy:
			m.networks = append(m.networks, *o)
		}
	}
}

// objects decodes a file: a member that is unknown or stands twice is an error.
func objects(t *testing.T, text []byte) (all []runtime.Object) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, policyv1.AddToScheme,
		autoscalingv2.AddToScheme, networkingv1.AddToScheme,
	} {
		check(t, add(scheme))
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		check(t, err)
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		all = append(all, object)
	}
}

// As written, before kustomize has read them with less care.
func TestManifestsAreWhatKubernetesReads(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	check(t, filepath.WalkDir(kubernetesDir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, o := range objects(t, text) {
			seen[o.GetObjectKind().GroupVersionKind().Kind] = true
		}
		return nil
	}))
	for _, kind := range []string{"Namespace", "ConfigMap", "Secret", "Service", "Deployment", "Job", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"} {
		if !seen[kind] {
			t.Errorf("there is no %s", kind)
		}
	}
}

// By the code that admits pods to a namespace of the profile "restricted".
func TestPodsAreRestricted(t *testing.T) {
	t.Parallel()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	check(t, err)
	level := admission.LevelVersion{Level: admission.LevelRestricted, Version: admission.LatestVersion()}
	for name, pod := range kubernetes(t).pods {
		for _, result := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
			if !result.Allowed {
				t.Errorf("%s: %s: %s", name, result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
		if token := pod.Spec.AutomountServiceAccountToken; token == nil || *token {
			t.Errorf("%s gets a token for the cluster, which it has no use for", name)
		}
		for _, c := range pod.Spec.Containers {
			if ro := c.SecurityContext.ReadOnlyRootFilesystem; ro == nil || !*ro {
				t.Errorf("%s may write to its root", name)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s says not what it needs", name)
			}
		}
	}
}

func TestPodsRunWhatThereIs(t *testing.T) {
	t.Parallel()
	m := kubernetes(t)
	settings := settingNames(t)
	images := map[string]bool{}
	for name, pod := range m.pods {
		for _, c := range pod.Spec.Containers {
			images[c.Image] = true
			if err := isCommand(t, c.Args); err != nil {
				t.Errorf("%s: authd %v: %v", name, c.Args, err)
			}
			for variable := range m.environment(t, c) {
				if !settings[variable] && variable != "GOMAXPROCS" {
					t.Errorf("%s: %s is no setting", name, variable)
				}
			}
		}
	}
	if len(images) != 1 {
		t.Errorf("the pods and the schema are of %v", images)
	}
	for image := range images {
		if _, tag, _ := strings.Cut(path.Base(image), ":"); tag != version(t) {
			t.Errorf("%s is not of version %s", image, version(t))
		}
	}
}

// Only handlers hold what opens the database.
func TestEdgesHoldNoSecretButTheirOwn(t *testing.T) {
	t.Parallel()
	m := kubernetes(t)
	edge := m.pods["authd-edge"].Spec
	for variable := range m.environment(t, edge.Containers[0]) {
		if variable == "DATABASE_URL" || variable == "SECRET_KEY" {
			t.Errorf("the edge has %s", variable)
		}
	}
	for _, v := range edge.Volumes {
		if s := v.Secret; s != nil && s.SecretName == "authd-nats-handlers" {
			t.Error("the edge has the handlers' seeds")
		}
	}
	for name, s := range m.secrets {
		for key, value := range s.StringData {
			if value != "" {
				t.Errorf("the example has a value for %s of %s", key, name)
			}
		}
	}
}

// environment is what a container's variables are, where they stand in a ConfigMap or as they
// are; "" for those that come from elsewhere, all of which has to be there.
func (m *manifests) environment(t *testing.T, c corev1.Container) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, from := range c.EnvFrom {
		config, ok := m.configs[from.ConfigMapRef.Name]
		if !ok {
			t.Errorf("there is no ConfigMap %s", from.ConfigMapRef.Name)
		}
		for name, value := range config.Data {
			all[name] = value
		}
	}
	for _, e := range c.Env {
		all[e.Name] = e.Value
		if e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
			continue
		}
		if ref := e.ValueFrom.SecretKeyRef; !m.secretHas(ref.Name, ref.Key) {
			t.Errorf("%s: there is no key %s in a Secret %s", e.Name, ref.Key, ref.Name)
		}
	}
	return all
}

func (m *manifests) secretHas(name, key string) bool {
	_, ok := m.secrets[name].StringData[key]
	return ok
}

func TestFilesOfSettingsAreMounted(t *testing.T) {
	t.Parallel()
	m := kubernetes(t)
	for name, deployment := range m.deployments {
		pod := deployment.Spec.Template.Spec
		environment := m.environment(t, pod.Containers[0])
		for _, variable := range []string{"NATS_NKEY_SEED_FILE", "NATS_TLS_CA"} {
			if file := environment[variable]; !m.mounted(pod, file) {
				t.Errorf("%s: %s is %q, which no mounted Secret holds", name, variable, file)
			}
		}
	}
}

// mounted tells whether a path is where a Secret is mounted, or one of its keys.
func (m *manifests) mounted(pod corev1.PodSpec, file string) bool {
	return slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(mount corev1.VolumeMount) bool {
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if i < 0 || pod.Volumes[i].Secret == nil {
			return false
		}
		secret := m.secrets[pod.Volumes[i].Secret.SecretName]
		if file == mount.MountPath {
			return len(secret.StringData) > 0
		}
		_, ok := secret.StringData[path.Base(file)]
		return ok && path.Dir(file) == mount.MountPath
	})
}

func TestSelectorsFindTheirPods(t *testing.T) {
	t.Parallel()
	m := kubernetes(t)
	for name, d := range m.deployments {
		if found := m.selected(t, d.Spec.Selector); !slices.Equal(found, []string{name}) {
			t.Errorf("deployment %s selects the pods of %v", name, found)
		}
		for _, spread := range d.Spec.Template.Spec.TopologySpreadConstraints {
			if found := m.selected(t, spread.LabelSelector); !slices.Equal(found, []string{name}) {
				t.Errorf("%s is spread among the pods of %v", name, found)
			}
		}
	}
	for _, b := range m.budgets {
		if found := m.selected(t, b.Spec.Selector); !slices.Equal(found, []string{b.Name}) {
			t.Errorf("budget %s is for the pods of %v", b.Name, found)
		}
	}
	for _, s := range m.scalers {
		target := s.Spec.ScaleTargetRef
		if d, ok := m.deployments[target.Name]; !ok || target.Kind != "Deployment" || d.Spec.Replicas != nil {
			t.Errorf("%s scales %s, which is absent or says itself how many there are", s.Name, target.Name)
		}
	}
	if len(m.deployments) != 2 || len(m.budgets) != 2 || len(m.scalers) != 2 {
		t.Errorf("deployments, budgets, scalers: %d, %d, %d", len(m.deployments), len(m.budgets), len(m.scalers))
	}
}

func TestNamedPortsAreThere(t *testing.T) {
	t.Parallel()
	m := kubernetes(t)
	for name, pod := range m.pods {
		for _, c := range pod.Spec.Containers {
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				if probe != nil && !hasPort(pod.Spec, probe.HTTPGet.Port) {
					t.Errorf("%s: a probe asks port %v", name, &probe.HTTPGet.Port)
				}
			}
		}
	}
	for _, s := range m.services {
		for _, name := range m.selected(t, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}) {
			if !hasPort(m.pods[name].Spec, s.Spec.Ports[0].TargetPort) {
				t.Errorf("service %s: %s has no such port", s.Name, name)
			}
		}
	}
	for _, p := range m.networks {
		found := m.selected(t, &p.Spec.PodSelector)
		for _, rule := range p.Spec.Ingress {
			for _, port := range rule.Ports {
				if !slices.ContainsFunc(found, func(name string) bool { return hasPort(m.pods[name].Spec, *port.Port) }) {
					t.Errorf("policy %s: none of %v has port %v", p.Name, found, port.Port)
				}
			}
		}
	}
}

// The probes are answered by the program as the pods run it.
func TestProbesAreAnswered(t *testing.T) {
	t.Parallel()
	m := kubernetes(t)
	edge, handlers := testauthd.StartApart(t)
	running := map[string]*testauthd.Instance{"authd-edge": edge, "authd-handlers": handlers}
	for name, d := range m.deployments {
		a, c := running[name], d.Spec.Template.Spec.Containers[0]
		if c.Args[1] != map[*testauthd.Instance]string{edge: "--edge", handlers: "--handlers"}[a] {
			t.Errorf("%s is %v", name, c.Args)
		}
		ports := map[string]string{"http": a.HTTP, "metrics": strings.TrimSuffix(a.Metrics, "/metrics")}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			asked := ports[probe.HTTPGet.Port.StrVal] + probe.HTTPGet.Path
			testauthd.Until(t, asked+" answers", func() bool {
				resp, err := testauthd.Client.Get(asked)
				return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
			})
		}
	}
}

// The operators' port has no login: each policy that opens it says to whom.
func TestOnlyPrometheusReachesTheMetrics(t *testing.T) {
	t.Parallel()
	m := kubernetes(t)
	covered := map[string]bool{}
	for _, p := range m.networks {
		for _, name := range m.selected(t, &p.Spec.PodSelector) {
			covered[name] = true
		}
		for _, rule := range p.Spec.Ingress {
			opens := len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, func(port networkingv1.NetworkPolicyPort) bool { return port.Port.StrVal == "metrics" })
			if opens && (len(rule.From) != 1 || rule.From[0].PodSelector == nil || rule.From[0].NamespaceSelector == nil) {
				t.Errorf("policy %s opens the metrics to everybody", p.Name)
			}
		}
	}
	for name := range m.pods {
		if !covered[name] {
			t.Errorf("no policy is for %s", name)
		}
	}
}

// selected names what makes the pods that a selector finds.
func (m *manifests) selected(t *testing.T, s *metav1.LabelSelector) (names []string) {
	t.Helper()
	selector, err := metav1.LabelSelectorAsSelector(s)
	check(t, err)
	for name, pod := range m.pods {
		if selector.Matches(labels.Set(pod.Labels)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func hasPort(pod corev1.PodSpec, port intstr.IntOrString) bool {
	return slices.ContainsFunc(pod.Containers[0].Ports, func(p corev1.ContainerPort) bool {
		return port.StrVal == p.Name
	})
}
