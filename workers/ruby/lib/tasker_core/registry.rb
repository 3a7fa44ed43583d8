# frozen_string_literal: true

module TaskerCore
  module Registry
    # The handlers that a worker runs, by the name that templates call. Most programs have one:
    # HandlerRegistry.instance.
    class HandlerRegistry
      class << self
        # The one of this process.
        def instance
          INSTANCE_LOCK.synchronize { @instance ||= new }
        end
      end

      INSTANCE_LOCK = Mutex.new
      private_constant :INSTANCE_LOCK

      # Finds a class by its own name, where the handler has another one.
      CLASS_LOOKUP = "class_lookup"

      def initialize
        @handlers = {}
        @folders = []
        @resolvers = {}
        @resolved = {}
        @lock = Mutex.new
      end

      # Registers a handler class under `name` or, without it, its own name. Raises where another one has the name: one
      # of the two would never run.
      def register_handler(name, handler = nil)
        name, handler = nil, name if handler.nil?
        check(handler)
        name = (name || handler.handler_name).to_s
        known = @lock.synchronize { @handlers[name] ||= handler }
        return handler if known.equal?(handler)

        raise Errors::ConfigurationError, "a handler named `#{name}` is registered already: #{described(known)}"
      end
      alias register register_handler

      # Forgets a handler; answers whether there was one.
      def unregister(name)
        @lock.synchronize { !@handlers.delete(name.to_s).nil? }
      end

      # A new instance of the handler of this name; nil where there is none.
      def resolve_handler(name, config = {})
        handler_class(name)&.build(config)
      end
      alias resolve resolve_handler

      # The class of the handler of this name; nil where there is none.
      def handler_class(name)
        @lock.synchronize { @handlers[name.to_s] }
      end

      # Registers what finds handlers by other means than their names; templates may name it (`handler.resolver`). The
      # block is asked once about each callable and method, on a thread of its own, and answers a handler class or nil.
      #
      #   registry.register_resolver("sql") { |callable, method| SqlFile if callable.start_with?("sql:") }
      def register_resolver(name, &resolver)
        raise ArgumentError, "a resolver needs a block" unless resolver
        return if name != CLASS_LOOKUP && (@resolvers[name.to_s] ||= resolver) == resolver

        raise Errors::ConfigurationError, "a resolver named `#{name}` is registered already"
      end

      # Every resolver, in the order in which they are asked. The last is `class_lookup`, where folders were discovered:
      # it finds the handler classes that they define by the classes' names.
      def resolver_names
        @folders.empty? ? @resolvers.keys : [*@resolvers.keys, CLASS_LOOKUP]
      end

      # The class that is registered under a name, or that a resolver finds; nil where there is none. A resolver that
      # raises knows nothing.
      def find(name, method = "call", resolver = nil)
        return handler_class(name) if resolver.nil?

        asked = [resolver, name, method]
        return @resolved[asked] if @resolved.key?(asked)

        @resolved[asked] = resolved(*asked)
      end

      # Whether there is a handler of this name.
      def handler_available?(name)
        !handler_class(name).nil?
      end
      alias registered? handler_available?

      # Every name, sorted.
      def registered_handlers
        @lock.synchronize { @handlers.keys.sort }
      end
      alias list_handlers registered_handlers

      # The methods of each handler, by name.
      def methods_by_name
        @lock.synchronize { @handlers.transform_values(&:handler_methods) }
      end

      # Forgets all.
      def clear!
        @lock.synchronize { @handlers.clear }
        [@folders, @resolvers, @resolved].each(&:clear)
      end

      # Registers every handler that the program has defined; answers how many.
      def bootstrap_handlers!
        register_all(StepHandler::Base.known)
      end

      # Loads every Ruby file in a folder and below, and registers the handlers that they define; answers how many.
      # `require` then finds the folder's files.
      def discover_folder(folder)
        path = File.realpath(folder)
        raise Errors::ConfigurationError, "#{path} is no folder" unless File.directory?(path)

        $LOAD_PATH.unshift(path) unless $LOAD_PATH.include?(path)
        Dir[File.join(path, "**", "*.rb")].each { |file| require file }
        @folders |= [path]
        register_all(Folder.new(path).handlers)
      end

      # Loads the folders anew, as their files are now. Where one can't be loaded, everything stays as it was and the
      # error is raised.
      def reload!
        fresh = self.class.new
        before = @lock.synchronize { @handlers.dup }
        Folder.anew(@folders) { |folder| fresh.discover_folder(folder) }
        of_folders = ->(handler) { @folders.any? { |path| Folder.new(path).holds?(handler.source_file) } }
        elsewhere = before.reject { |_, handler| of_folders[handler] }
        handlers = fresh.handlers_by_name.merge(elsewhere)
        @lock.synchronize { @handlers = handlers }
        @resolved.clear
      end

      # The class of each handler, by name.
      def handlers_by_name
        @lock.synchronize { @handlers.dup }
      end

      private

      def resolved(resolver, name, method)
        found = resolver == CLASS_LOOKUP ? of_folders(name) : @resolvers[resolver]&.call(name, method)
        return if found.nil?

        check(found)
        found if found.handler_methods.include?(method)
      rescue Exception => e # it counts as knowing nothing
        why = "#{Outcome.class_name(e)}: #{Outcome.said(e)}"
        TaskerCore.logger.error("the resolver #{resolver} was asked for #{name}: #{why}")
        nil
      end

      # Templates must not make a worker load anything: only what is there already is looked at.
      def of_folders(name)
        @folders.each do |path|
          found = Folder.new(path).handlers.find { |handler| handler.name == name && handler.runnable? }
          return found if found
        end
        nil
      end

      def register_all(classes)
        runnable = classes.select(&:runnable?)
        runnable.each { |handler| register_handler(handler) }
        runnable.size
      end

      def check(handler)
        unless handler.is_a?(Class) && handler < StepHandler::Base
          raise Errors::ConfigurationError, "#{handler.inspect} is no handler: no class below StepHandler::Base"
        end
        raise Errors::ConfigurationError, "#{described(handler)} has no name" if handler.handler_name.nil?
        raise Errors::ConfigurationError, "#{described(handler)} has no call(context)" unless handler.runnable?

        missing = handler.handler_methods.find { |method| !handler.method_defined?(method) }
        return unless missing

        lacks = "has no method `#{missing}`, which its handler_methods name"
        raise Errors::ConfigurationError, "#{described(handler)} #{lacks}"
      end

      def described(handler)
        handler.name || "#{handler.handler_name} of #{handler.source_file}"
      end
    end

    # The handlers whose files are in a folder.
    class Folder
      class << self
        # Forgets what the folders have defined and lets the block load each again; after an error all is as before.
        def anew(folders)
          known, features = StepHandler::Base.known, $LOADED_FEATURES.dup
          before = known.dup
          gone = folders.flat_map { |path| new(path).handlers }
          constants = gone.filter_map { |handler| constant(handler) }
          constants.each { |parent, name, _| parent.send(:remove_const, name) }
          known.reject! { |handler| gone.include?(handler) }
          $LOADED_FEATURES.reject! { |file| folders.any? { |path| new(path).holds?(file) } }
          folders.each { |path| yield path }
        rescue StandardError, ScriptError
          constants.each { |parent, name, handler| set(parent, name, handler) }
          known.replace(before)
          $LOADED_FEATURES.replace(features)
          raise
        end

        private

        # Where a class is found by its name.
        def constant(handler)
          return unless handler.name

          *path, name = handler.name.split("::")
          parent = path.empty? ? Object : Object.const_get(path.join("::"))
          [parent, name, handler] if parent.const_defined?(name, false) && parent.const_get(name, false).equal?(handler)
        rescue NameError
          nil
        end

        def set(parent, name, handler)
          parent.send(:remove_const, name) if parent.const_defined?(name, false)
          parent.const_set(name, handler)
        end
      end

      def initialize(path)
        @path = path
      end

      def holds?(file)
        file.to_s.start_with?(File.join(@path, ""))
      end

      # The classes that its files define.
      def handlers
        StepHandler::Base.known.select { |handler| holds?(handler.source_file) }
      end
    end
  end
end
