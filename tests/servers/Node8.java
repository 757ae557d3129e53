import java.lang.reflect.Method;
import java.nio.file.Path;
import java.util.Map;
import java.util.Set;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/** An Elasticsearch 8 or 9 node with dense_vector: java -cp 'lib/*' Node8.java HOME PORT [SETTING=VALUE ...] */
public class Node8 {
    public static void main(String[] arguments) throws Exception {
        LogConfigurator.configureESLogging();
        String home = arguments[0];
        Settings.Builder settings = Settings.builder()
            .put("path.home", home)
            .put("cluster.name", "m3-tests")
            .put("node.name", "m3-tests")
            .put("discovery.type", "single-node")
            .put("network.host", "127.0.0.1")
            .put("http.port", arguments[1])
            .put("transport.port", "0")
            .put("cluster.routing.allocation.disk.threshold_enabled", false);
        for (int i = 2; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            settings.put(pair[0], pair[1]);
        }
        Environment environment = InternalSettingsPreparer.prepareEnvironment(
            settings.build(), Map.of(), Path.of(home, "config"), () -> "m3-tests");
        Set<?> bundles = bundles(Path.of(home, "modules"));
        Method create = null;
        for (Method method : PluginsLoader.class.getMethods()) {
            if (method.getName().equals("createPluginsLoader") && method.getParameterCount() == 4) {
                create = method;
            }
        }
        PluginsLoader loader = (PluginsLoader) create.invoke(null, bundles, Set.of(), Map.of(), false);
        new Node(environment, loader).start();
        Thread.currentThread().join();
    }

    /** Version 9 takes one argument more than version 8. */
    private static Set<?> bundles(Path modules) throws Exception {
        try {
            return (Set<?>) PluginsLoader.class
                .getMethod("loadModulesBundles", Path.class, boolean.class).invoke(null, modules, false);
        } catch (NoSuchMethodException version8) {
            return (Set<?>) PluginsLoader.class.getMethod("loadModulesBundles", Path.class).invoke(null, modules);
        }
    }
}
